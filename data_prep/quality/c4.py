"""C4's rules for lines and pages.

What comes in: one document's text. What goes out: the text without the lines that the rules remove, or the reason why
the whole document is left out. Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer", JMLR 21, section 2.2.
"""

import re
from collections import Counter

from data_prep.quality.thresholds import C4

END_MARKS = (".", "!", "?", '"', "”")
ELLIPSES = ("...", "…")
POLICY_NOTICES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION_MARK = re.compile(r"\[(?:\d+|edit|citation needed)\]")
# an end mark, perhaps closed by quotation marks or brackets, before whitespace or the end
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")


def apply_c4(text: str, rules: C4, removed: Counter[str]) -> tuple[str, str | None]:
    """Apply the rules to one document.

    Args:
        text: the document.
        rules: which ones.
        removed: what was taken out of the text is counted here: lines by reason, and citation marks.

    Returns:
        The text that is left, and why the document is left out, or None when it stays.
    """
    lower = text.lower()
    if rules.lorem_ipsum and "lorem ipsum" in lower:
        return text, "lorem_ipsum"
    if rules.curly_bracket and "{" in text:
        return text, "curly_bracket"
    if rules.citation_marks and "[" in text:
        text, marks = _CITATION_MARK.subn("", text)
        removed["citation_marks"] += marks
    lines = []
    for line in text.split("\n"):
        reason = _line_fault(line.strip(), rules)
        if reason is None:
            lines.append(line)
        elif line.strip():
            removed[reason] += 1
    text = "\n".join(lines)
    if rules.min_sentences is not None and len(_SENTENCE_END.findall(text)) < rules.min_sentences:
        return text, "too_few_sentences"
    return text, None


def _line_fault(line: str, rules: C4) -> str | None:
    """Why a line is removed, or None."""
    if rules.terminal_punctuation and (not line.endswith(END_MARKS) or line.endswith(ELLIPSES)):
        return "no_terminal_punctuation"
    if rules.min_words_per_line is not None and len(line.split()) < rules.min_words_per_line:
        return "too_few_words"
    lower = line.lower()
    if rules.javascript and "javascript" in lower:
        return "javascript"
    if rules.policy_notices and any(notice in lower for notice in POLICY_NOTICES):
        return "policy_notice"
    return None
