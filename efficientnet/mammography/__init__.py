"""Everything that knows what a mammogram is."""
