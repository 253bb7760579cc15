"""Attention under the one rule: a batch goes in once and a plan comes out that every layer shares."""

from pipeline.attention.interface import AttentionBackend, AttentionPlan
from pipeline.attention.select import COMPUTE_DTYPES, select_backend

__all__ = ["COMPUTE_DTYPES", "AttentionBackend", "AttentionPlan", "select_backend"]
