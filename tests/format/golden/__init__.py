"""Files as every version of the format wrote them, and the programs that did."""
