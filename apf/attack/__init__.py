"""The attack: steps on recognisers, through the road that a photo takes, under a bound that follows what eyes see."""
