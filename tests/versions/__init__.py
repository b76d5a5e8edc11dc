"""The proofs of `VersSaver`: at every checkpoint the machine holds what the conversation claims, whatever happened."""
