"""Check protected faces: whether recognisers still match them to other photos of their people. Without torch."""
