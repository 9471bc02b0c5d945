"""What a run keeps of its items: identity, thumbnail, vector, map place, cluster; and their nearest neighbours."""

from tacit.store._index import Index
from tacit.store._items import Hit, Items

__all__ = ["Hit", "Index", "Items"]
