"""The client side of the mirror: how upstream registries are asked."""
