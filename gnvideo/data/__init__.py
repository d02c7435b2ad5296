"""Videos: annotations, prepared folders, decoding, clip sampling, transforms and loaders."""
