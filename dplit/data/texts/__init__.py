"""Texts: token ids, identity terms, counterfactual copies, and `Texts` for your own files."""

from dplit.data.texts.files import Texts

__all__ = ["Texts"]
