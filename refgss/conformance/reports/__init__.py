"""Reports: JSON lines, and the page, badge and JUnit file made from them."""
