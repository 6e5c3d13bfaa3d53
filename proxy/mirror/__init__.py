"""The use cases: a manifest, a blob. The one place that knows what is answered from what is held."""
