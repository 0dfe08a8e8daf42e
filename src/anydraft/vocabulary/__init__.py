"""Two tokenizers related: the bytes of every token, what two vocabularies share, ids that follow each other's text, pruned heads."""
