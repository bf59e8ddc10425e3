"""How good the labels are: agreement, ability, noise, habits, pace; and what to ask next."""
