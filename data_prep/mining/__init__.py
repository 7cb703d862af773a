"""Mining hard negatives by CLIP cosine into candidate lists."""
