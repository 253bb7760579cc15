"""GPT-2 that reads prefixes in both directions. It goes with exported models and needs transformers 4.53 or newer.

    model = AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)
    model.generate(**inputs)                          # each row's prompt is its prefix
    model.generate(**inputs, prefix_length=0)         # the prompt is read causally
    model(**inputs, prefix_length=lengths)            # logits; lengths is a number, or a tensor with one for each row

`inputs` are the tokenizer's: input_ids and, where rows are padded on either side, attention_mask. With `prefix_length`
a token sees those of its row that stand before it or in the prefix, itself included, and no padding; and positions
count the row's own tokens, so padding changes nothing. Without it a forward pass is GPT2LMHeadModel's, and causal.

Shape suffixes: B rows, S tokens read at once, K tokens in the cache and these.
"""

import torch
import transformers
from transformers import GPT2LMHeadModel

if tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 53):  # they take no mask of a model's own
    raise ImportError(f"this model needs transformers 4.53 or newer, and this is {transformers.__version__}")


class PrefixGPT2LMHeadModel(GPT2LMHeadModel):
    """GPT2LMHeadModel with `prefix_length`."""

    def generate(self, inputs=None, *args, prefix_length=None, **kwargs):
        """As GPT2LMHeadModel's, with one more argument.

        Args:
            prefix_length: how many tokens of each row are read in both directions, a number or a tensor [B]. By
                default the whole prompt if the model was trained on prefixes, else nothing.
        """
        prompts = (x for x in (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
        prompt = next(prompts, None)
        if prefix_length is None and prompt is not None and self.config.foreword["prompt_reading"] == "prefix":
            mask = kwargs.get("attention_mask")
            prefix_length = prompt.shape[1] if mask is None else mask.sum(-1)
        return super().generate(inputs, *args, prefix_length=prefix_length, **kwargs)

    def forward(
        self,
        input_ids=None,
        *,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        prefix_length=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """As GPT2LMHeadModel's, with one more argument.

        Args:
            prefix_length: how many tokens of each row are read in both directions, a number or a tensor [B]; they must
                all be in the call that begins a cache. No label inside of a prefix is scored: it can be seen.
        """
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        if prefix_length is not None:
            is_static = getattr(past_key_values, "is_compileable", False)
            if is_static or (attention_mask is not None and attention_mask.ndim != 2):
                raise ValueError("prefix_length needs a dynamic cache, and an attention_mask [B, K] or none")
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            shape = (inputs.shape[0], past + inputs.shape[1])
            is_real_BK = inputs.new_ones(shape, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
            if is_real_BK.shape != shape:
                raise ValueError(f"attention_mask is {tuple(is_real_BK.shape)}, rows and their tokens are {shape}")
            number_BK = is_real_BK.cumsum(-1)  # 1 for a row's first token
            prefix_B1 = torch.as_tensor(prefix_length, device=inputs.device).reshape(-1, 1)
            if not past or inputs.shape[1] > 1:
                begun_with_B1 = number_BK[:, (past or shape[1]) - 1 :][:, :1]
                if (prefix_B1 > begun_with_B1).any():
                    raise ValueError(
                        f"prefix_length {prefix_B1.flatten().tolist()}, but the call that begins has "
                        f"{begun_with_B1.flatten().tolist()} tokens; padding does not count, by attention_mask"
                    )
            if position_ids is None:
                position_ids = (number_BK - 1).clamp(min=0)[:, past:]
            if not past:  # behind the prefix, and so behind what began the cache, the rule is the causal one
                attention_mask = self._prefix_mask(is_real_BK, is_real_BK & (number_BK <= prefix_B1))
                labels = None if labels is None else labels.masked_fill(number_BK <= prefix_B1, -100)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _prefix_mask(self, is_real_BK, in_prefix_BK):
        """[B, 1, K, K] as the attention takes it: bool, or numbers that are added to the scores."""
        columns_K = torch.arange(is_real_BK.shape[1], device=is_real_BK.device)
        visible_BKK = is_real_BK[:, None] & (columns_K <= columns_K[:, None]) | in_prefix_BK[:, None]
        visible_B1KK = (visible_BKK | (columns_K == columns_K[:, None]))[:, None]  # padding sees itself, not nothing
        attention = self.config._attn_implementation
        if attention == "sdpa":
            return visible_B1KK
        if attention == "eager" and not hasattr(self.transformer.h[0].attn, "bias"):
            return torch.zeros_like(visible_B1KK, dtype=self.dtype).masked_fill(
                ~visible_B1KK, torch.finfo(self.dtype).min
            )
        # others take no such mask, and older versions' "eager" adds a causal one of its own
        raise ValueError(f"attention {attention!r} cannot read prefixes; load with attn_implementation='sdpa'")
