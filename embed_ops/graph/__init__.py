"""Layer-wise graph neural networks over a whole graph: the models, and how their layers run over partitions."""
