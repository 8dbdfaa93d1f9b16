"""How the page of answers looks; light or dark as its reader's system is."""

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1d2129;
  --pale: #6b7280; --rule: #e2e5ea; --right: #1a7f4b; --wrong: #c0392b;
  --tint: #e7f0fb; --accent: #2f6fb7; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1d2026;
  --ink: #e6e8ec; --pale: #949ba8; --rule: #2d323b; --right: #4cc38a;
  --wrong: #ef7a6d; --tint: #1f3048; --accent: #6ea8e8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 36px 0 10px; }
h2 span { font-weight: 400; font-size: 14px; color: var(--pale); margin-left: 8px; }
.note { color: var(--pale); max-width: 720px; margin: 0 0 20px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--pale); font-size: 12px; }
th, td { padding: 8px 12px; border-bottom: 1px solid var(--rule); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
td:first-child { white-space: nowrap; }
a { color: var(--accent); text-decoration: none; }
.reached { font-weight: 700; }
td.right { color: var(--right); } td.wrong { color: var(--wrong); }
.bar { display: block; position: relative; height: 6px; min-width: 130px;
  margin-top: 5px; border-radius: 3px; background: var(--rule); }
.bar b { position: absolute; top: 0; height: 6px; border-radius: 3px;
  background: var(--accent); }
.bar i { position: absolute; top: -3px; width: 2px; height: 12px;
  background: var(--pale); }
.bar i.baseline { background: var(--ink); }
.cards { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
article { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px; border-top: 3px solid var(--rule); overflow-wrap: anywhere; }
article.right { border-top-color: var(--right); }
article.wrong { border-top-color: var(--wrong); }
article.wide { grid-column: 1 / -1; }
.asked { display: flex; flex-wrap: wrap; gap: 8px; align-items: center;
  color: var(--pale); white-space: pre-wrap; font-size: 13.5px; }
.asked img { height: 88px; max-width: 100%; image-rendering: pixelated;
  border-radius: 4px; background: #000; }
.said { background: var(--tint); border-radius: 3px; padding: 0 3px; }
audio { width: 100%; height: 36px; }
.answer { font-weight: 700; font-size: 17px; margin: 10px 0 0; }
.right .answer { color: var(--right); } .wrong .answer { color: var(--wrong); }
.truth { color: var(--pale); font-size: 13px; margin: 2px 0 0; white-space: pre-wrap; }
pre { margin: 0; white-space: pre-wrap; font: 13px/1.5 ui-monospace, monospace; }
mark { background: var(--tint); color: inherit; border-radius: 3px; }
"""
