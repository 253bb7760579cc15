"""What holds for all tests: how long an example of a property takes says nothing, because machines are shared."""

from hypothesis import HealthCheck, settings

settings.register_profile("foreword", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("foreword")
