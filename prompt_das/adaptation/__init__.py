"""The method (Prompt-DAS, Sec. 2): mean teacher, pseudo-labels, pseudo points, contrastive sampling, monitoring."""
