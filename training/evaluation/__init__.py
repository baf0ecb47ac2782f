"""How good a model is: errors beside baselines, by element, and after relaxation."""
