"""How the demonstration's page looks, in light and dark."""

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6878;--line:#dfe4ea;--a:#d63a3a;--b:#b97800;--c:#0a7f86;
--crowd:#5c5fd6;--good:#1c8a4c;--bad:#d63a3a;--surge:#5c5fd61c;--flood:#d63a3a17;--cpu:#7a8594}
@media(prefers-color-scheme:dark){:root{--bg:#10151d;--card:#18202b;--ink:#e8edf4;--soft:#97a4b5;--line:#2b3644;
--a:#ff6b6b;--b:#f0b13c;--c:#3cc7ce;--crowd:#9a9cff;--good:#4cc982;--bad:#ff6b6b;--surge:#9a9cff20;--flood:#ff6b6b1c;
--cpu:#8b98a9}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:44px}
h1{font-size:clamp(26px,4vw,38px);line-height:1.15;margin:.1em 0 .5em;letter-spacing:-.02em;max-width:22em}
h2{font-size:22px;margin:44px 0 4px;letter-spacing:-.01em}
.eyebrow{margin:0;color:var(--soft);font-weight:600;letter-spacing:.08em;text-transform:uppercase;font-size:12px}
.badge{display:inline-block;margin:0 0 6px;padding:7px 16px;border-radius:99px;font-weight:650;color:#fff}
.badge.good{background:#1c8a4c}.badge.bad{background:#c93333}
.meta,.lead,footer{color:var(--soft)}.meta{font-size:13px;margin:6px 0}.lead{margin:0 0 12px}
footer{padding-top:30px;padding-bottom:50px;font-size:13px}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:16px 18px;margin:0}
.pair{display:grid;grid-template-columns:minmax(0,1.15fr) minmax(0,1fr);gap:16px;margin-top:22px}
.pair figure{display:flex;align-items:center}
.tiles{display:grid;grid-template-columns:1fr 1fr;gap:16px}
.tile{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--hue);border-radius:14px;
padding:14px 16px;display:flex;flex-direction:column;justify-content:center}
.tile b{font-size:26px;line-height:1.15;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13.5px;line-height:1.35;margin-top:3px}
.a{--hue:var(--a)}.b{--hue:var(--b)}.c{--hue:var(--c)}.crowd{--hue:var(--crowd)}.bad{--hue:var(--bad)}
.good{--hue:var(--good)}.cpu{--hue:var(--cpu)}.plain{--hue:var(--soft)}
svg{display:block;width:100%;height:auto;font-family:inherit}
.node circle{fill:var(--card);stroke:var(--hue);stroke-width:4}
.node text,.num,.small,text.gate{text-anchor:middle}
.node .name{font-size:32px;font-weight:700;fill:var(--hue)}
.node .role{font-size:16px;font-weight:650;fill:var(--hue)}
.node .what,.small,text.gate{font-size:13px;fill:var(--soft)}
.num{font-size:19px;font-weight:700;fill:var(--hue)}
.flow{fill:none;stroke:var(--hue);stroke-linecap:butt;opacity:.85}
rect.gate{fill:var(--good);opacity:.92}
.chart+.chart{margin-top:14px;padding-top:12px;border-top:1px solid var(--line)}
.charthead{margin:0 0 2px;font-size:14px;display:flex;flex-wrap:wrap;gap:3px 14px;align-items:baseline}
.charthead small{color:var(--soft);margin-left:-8px}
.key{color:var(--soft);font-size:13px;white-space:nowrap}
.key i{display:inline-block;width:16px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle;
background:var(--hue)}
.key i.dot{width:8px;height:8px;border-radius:50%}
.key i.level{background:repeating-linear-gradient(90deg,var(--hue) 0 4px,transparent 4px 7px)}
.key i:not([class*=" "]){display:none}
.scroll{overflow-x:auto}.chart svg{min-width:620px}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.tick{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}.tick.y{text-anchor:end}
.tick.x{text-anchor:middle}
.band.surge{fill:var(--surge)}.band.flood{fill:var(--flood)}
.bandname{font-size:12.5px;font-weight:600;fill:var(--soft)}
polyline.line,path.level,path.mark{fill:none;stroke:var(--hue)}
polyline.line{stroke-width:2;stroke-linejoin:round}polyline.line.thin{stroke-width:1;opacity:.35}
.area{fill:var(--hue);opacity:.2}.area.strong{opacity:.65}
.dots{stroke:var(--hue);stroke-linecap:round;fill:none}.dots.faint{opacity:.3}
path.level{stroke-width:1.5;stroke-dasharray:4 3}
path.mark{stroke-width:1.5;stroke-dasharray:2 3}
.marklabel{font-size:13px;font-weight:600;fill:var(--hue);paint-order:stroke;stroke:var(--card);stroke-width:4px;
stroke-linejoin:round}
table{border-collapse:collapse;width:100%;font-size:14.5px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:13px;padding:4px 10px 4px 0;white-space:nowrap}
td{padding:7px 10px 7px 0;border-top:1px solid var(--line);vertical-align:top}
tr.act th{padding-top:18px;color:var(--ink);font-size:15px}
.ok,.no{font-weight:700;width:22px}.ok{color:var(--good)}.no,.wrong b{color:var(--bad)}
.of{font-weight:650;white-space:nowrap}.when{white-space:nowrap;font-variant-numeric:tabular-nums}
.why{color:var(--soft);width:40%;min-width:240px}
.cases{display:grid;gap:14px}
.case{border-left:4px solid var(--soft)}.case.attacker{border-left-color:var(--a)}
.case.victim{border-left-color:var(--b)}.case.cleared{border-left-color:var(--good)}
.who{margin:0;display:flex;gap:10px;align-items:baseline;flex-wrap:wrap}.who b{font-size:20px}
.who .role{font-weight:650}.times{color:var(--soft);font-size:13px}
.cause{margin:6px 0;font-size:17px}.counter{margin:6px 0;color:var(--soft);font-style:italic}
.case ul{margin:8px 0 0;padding-left:20px;color:var(--soft);font-size:14.5px}
@media(max-width:800px){.pair{grid-template-columns:1fr}}
"""
