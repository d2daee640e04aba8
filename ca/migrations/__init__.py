"""How the authority's tables came to be."""
