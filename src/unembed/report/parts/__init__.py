"""What pages share: cards, charts, drawing, wording."""
