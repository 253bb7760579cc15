"""What a training job does about itself: it writes down what happens to it, and decides whether it comes back."""
