"""What a run keeps of its items: identity, thumbnail, vector, map place, cluster; and exact nearest neighbours."""

from tacit.store._items import Hit, Items

__all__ = ["Hit", "Items"]
