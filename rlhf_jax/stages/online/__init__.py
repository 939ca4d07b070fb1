"""Training on the policy's own samples: the loop that PPO and the group methods share, and the trainer inside it."""
