"""Figures in one style, drawn without a display: what reports and statistics are made of."""
