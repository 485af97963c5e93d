"""What a style is: embeddings of images, their aggregation, where they are kept and how they are lent."""
