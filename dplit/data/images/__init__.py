"""Images: `ImageFolder` for your own files."""

from dplit.data.images.files import ImageFolder

__all__ = ["ImageFolder"]
