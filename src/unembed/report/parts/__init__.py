"""What pages share: the base template with its styles and scripts, charts, heat maps, wording."""
