"""Nodes through GraphSAGE, GAT and GCN layers. Read `model.py` first."""
