"""CorpusGen: text in, packed windows of student ids and the student's vocabulary out."""
