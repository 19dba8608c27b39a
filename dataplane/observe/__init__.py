"""What the daemon tells about itself: metrics, status, health."""
