"""From the policies of other systems to a policy tree."""
