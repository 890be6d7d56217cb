"""What the Spark tests and the demo share: servers and Spark applications as real processes, and the measures taken of them."""
