"""Run folders: parts that appear whole, provenance, plain records, progress."""
