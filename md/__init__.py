"""What one does with a potential: relaxation now, dynamics and properties later."""
