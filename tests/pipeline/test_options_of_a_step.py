"""Options of how a step is computed reach it from the configuration, and those that cannot be combined are refused."""

import pytest
from tiny_corpus import make_corpus
from training import curve, train_all, train_config

from foreword.errors import ConfigError


def test_z_loss_moves_the_gradient_and_not_the_reported_loss_and_tokens_that_cannot_be_shared_are_refused(tmp_path):
    corpus, uneven = make_corpus(tmp_path / "corpus").path, make_corpus(tmp_path / "uneven", sequence_length=31).path
    two_steps = {"schedule": {"total_steps": 2}, "evaluation__every_steps": None}
    sharing = {"parallel": {"tensor_parallel_size": 2, "sequence_parallel": True}, "batch__micro_batch_size": 1}
    plain, with_z_loss, unshared, shared = (
        train_config(tmp_path / "plain", corpus, **two_steps),
        train_config(tmp_path / "z_loss", corpus, **two_steps, z_loss=0.1),
        train_config(tmp_path / "unshared", uneven, **two_steps, **sharing),
        train_config(tmp_path / "shared", corpus, **two_steps, **sharing),
    )
    for errors in train_all(2, plain, with_z_loss, unshared, shared):
        assert errors[0] is errors[1] is errors[3] is None
        assert "parallel.sequence_parallel: micro-batches of 31 tokens are not 2 equal parts" in errors[2]
    assert curve(with_z_loss.run_dir)[1] == curve(plain.run_dir)[1] == pytest.approx(curve(shared.run_dir)[1], rel=1e-6)
    assert curve(with_z_loss.run_dir, "grad_norm")[1] > 1.1 * curve(plain.run_dir, "grad_norm")[1]


def test_sequence_parallelism_without_ranks_to_share_with_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sequence_parallel needs a tensor_parallel_size above 1"):
        train_config(tmp_path, tmp_path, parallel={"sequence_parallel": True})
