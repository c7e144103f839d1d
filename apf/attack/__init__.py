"""The attack: steps on recognisers, through what a photo goes through, under a bound that follows what eyes see."""
