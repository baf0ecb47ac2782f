"""What one does with a potential: relaxation, screening, dynamics and their analysis."""
