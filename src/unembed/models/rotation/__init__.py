"""The residual stream turned, which changes no decision, so that rounded weights change fewer."""
