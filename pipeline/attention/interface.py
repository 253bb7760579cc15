"""What an attention backend is: it turns a batch into a plan, and the plan attends, layer after layer.

A backend promises that query q receives exactly the keys of its own segment with k <= q or k < prefix_end (see
`pipeline.data.batch`), padding included, whose rows are a causal segment of their own. One that cannot honour this for
a batch raises; it never computes something else.

Shape suffixes: B rows, H heads of this tensor-parallel rank, S queries or keys, D features of a head.
"""

from typing import ClassVar, Protocol

from torch import Tensor

from pipeline.data.batch import Batch


class AttentionPlan(Protocol):
    """All that depends on the batch and not on the layer: masks, sequence boundaries, gather indices."""

    def attend(self, q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(D)) v under the rule: [B, H, queries, D] in the dtype of `q_BHSD`.

        The tensors may be views with any strides whose last dimension is contiguous; so may the result.
        """


class AttentionBackend(Protocol):
    """A way of computing attention.

    Attributes:
        name: as the configuration says it.
    """

    name: ClassVar[str]

    def prepare(self, batch: Batch) -> AttentionPlan:
        """Build the plan on the batch's device, without waiting for the device.

        Called once per batch, never per layer.
        """
