"""How the page looks: on wide and narrow screens, in light and dark, and on paper. System fonts only, nothing is loaded."""

CSS = """
:root{color-scheme:light dark;--bg:#fff;--soft:#f5f6f8;--line:#dfe3e8;--text:#1c2430;--mute:#5a6675;--accent:#1f5fd0;--good:#14713a;
--goodbg:#e7f5ec;--bad:#b3261e;--badbg:#fdecea;--c2:#b45309;--c3:#0f766e;--c4:#7c3aed;--heat:31,95,208;--shade:rgba(20,30,45,.16)}
@media (prefers-color-scheme:dark){:root{--bg:#11151b;--soft:#191f28;--line:#2d3643;--text:#e4e9f0;--mute:#9aa7b8;--accent:#7fb0ff;
--good:#67d391;--goodbg:#12281b;--bad:#ff8f85;--badbg:#331715;--c2:#f3ad5b;--c3:#5fd0c3;--c4:#bda2ff;--heat:127,176,255;--shade:rgba(160,180,210,.28)}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:1.75rem;line-height:1.2;margin:0;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 4px;letter-spacing:-.01em}
h3{font-size:1rem;margin:28px 0 8px}
p{margin:8px 0;max-width:72ch}
section{padding:36px 0 8px;border-top:1px solid var(--line);margin-top:36px}
.sub,.note,figcaption small{color:var(--mute)}
.note{font-size:.9rem}
a{color:var(--accent);text-underline-offset:2px}
code,pre{font:.86em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
.verdict{margin:20px 0 0;padding:20px 22px;border-radius:12px;border-left:6px solid}
.verdict.good{background:var(--goodbg);border-color:var(--good)}
.verdict.bad{background:var(--badbg);border-color:var(--bad)}
.verdict p{margin:6px 0 0;max-width:80ch}
.verdict strong{display:block;font-size:1.35rem;line-height:1.3;letter-spacing:-.01em}
.verdict.good strong,.yes{color:var(--good)}
.verdict.bad strong,.no{color:var(--bad)}
.yes,.no{font-weight:600;white-space:nowrap}
.skip{color:var(--mute);white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:16px 0 28px}
.cards div{background:var(--soft);border-radius:10px;padding:12px 14px}
.cards dt{color:var(--mute);font-size:.82rem;line-height:1.3}
.cards dd{margin:4px 0 0;font-size:1.35rem;font-weight:600;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.cards dd small{display:block;font-size:.8rem;font-weight:400;color:var(--mute);letter-spacing:0}
nav{margin:20px 0 0}
nav ul{display:flex;flex-wrap:wrap;gap:6px 18px;list-style:none;margin:0;padding:0;font-size:.9rem}
dl{margin:8px 0}
dl:not(.cards)>div{display:grid;grid-template-columns:13rem 1fr;gap:2px 16px;padding:6px 0;border-bottom:1px solid var(--line)}
dl:not(.cards) dt{color:var(--mute)}
dl:not(.cards) dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:12px 0;background:linear-gradient(90deg,var(--bg) 50%,transparent) 0 0/36px 100% no-repeat local,
linear-gradient(270deg,var(--bg) 50%,transparent) 100% 0/36px 100% no-repeat local,
linear-gradient(90deg,var(--shade),transparent) 0 0/14px 100% no-repeat scroll,
linear-gradient(270deg,var(--shade),transparent) 100% 0/14px 100% no-repeat scroll}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 12px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{padding-left:0}
th:last-child,td:last-child{padding-right:0}
thead th{color:var(--mute);font-weight:500;font-size:.82rem;line-height:1.3;vertical-align:bottom}
tbody th{font-weight:500}
.n{text-align:right;white-space:nowrap}
thead .n{white-space:normal}
tr:target{background:var(--soft)}
tbody .sub{display:block;font-weight:400;font-size:.84rem}
.main th,.main td{font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:12px 32px}
figure{margin:16px 0 4px;min-width:0}
figcaption{font-weight:600;font-size:.95rem}
figcaption small{display:block;font-weight:400;font-size:.86rem}
.plot{display:block;width:100%;height:auto;overflow:hidden}
.plot text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--text)}
.plot .tick,.plot .label{fill:var(--mute)}
.plot .point .label,.plot .name{fill:var(--text)}
.grid{stroke:var(--line);stroke-width:1}
.axis{stroke:var(--mute);stroke-width:1}
.front{fill:none;stroke:var(--mute);stroke-width:1.5;stroke-dasharray:5 4}
.bound{stroke:var(--mute);stroke-width:1.5;stroke-dasharray:2 4}
.series{fill:none;stroke-width:2;stroke-linejoin:round}
.mark{stroke:var(--bg);stroke-width:1.5}
.mark.open{fill:none;stroke-width:2.5}
.k-this,.k-student{--c:var(--accent)}.k-run{--c:var(--c3)}.k-rejected{--c:var(--bad)}.k-push,.k-quantized{--c:var(--c4)}
.k-bound,.k-control{--c:var(--c2)}
.mark{fill:var(--c)}.mark.open,.series{stroke:var(--c)}
.series.k-control{stroke-dasharray:7 4}.series.k-quantized{stroke-dasharray:2 4}
.point{outline:none;cursor:default}
.point .tip{visibility:hidden;font-weight:600}
.point:hover .tip,.point:focus .tip{visibility:visible}
.plot:has(.point:hover) .ylabel,.plot:has(.point:focus) .ylabel,.plot:has(.point:hover) .point:focus:not(:hover) .tip{visibility:hidden}
.point:hover .mark,.point:focus .mark{stroke:var(--text);stroke-width:2.5}
.cell{fill:rgb(var(--heat))}
.pair{fill:none;stroke:var(--text);stroke-width:2}
.cell-text{text-anchor:middle}
.lineage code{overflow-wrap:normal;white-space:nowrap}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:4px 0;padding:0;font-size:.88rem;color:var(--mute)}
.legend li{display:flex;align-items:center;gap:6px}
.key{width:16px;height:16px}
details{margin:6px 0 12px;font-size:.92rem}
summary{cursor:pointer;color:var(--mute);width:fit-content}
.barred{display:inline-flex;align-items:center;gap:10px;justify-content:flex-end;min-width:9rem}
.barred>span{min-width:3.6rem}
.bar{width:5.5rem;height:7px;flex:none;border-radius:4px;overflow:hidden}
.track{fill:var(--line)}.fill{fill:var(--accent)}
.sample{margin:20px 0}
.sample h3{margin:0 0 8px;font-weight:600}
.sample h3 code{font-weight:600}
.texts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));gap:12px}
.texts div{background:var(--soft);border-radius:10px;padding:12px 14px}
.texts h4{margin:0 0 6px;font-size:.82rem;color:var(--mute);font-weight:600}
.command{background:var(--soft);border-radius:10px;padding:14px 16px;margin:12px 0}
footer{padding-top:28px;padding-bottom:48px;color:var(--mute);font-size:.86rem}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
@media (max-width:600px){
main,header,footer{padding-left:16px;padding-right:16px}
header{padding-top:24px}
h1{font-size:1.45rem}
section{padding-top:26px;margin-top:26px}
.verdict{padding:16px}
.cards{grid-template-columns:1fr 1fr;gap:10px}
.cards dd{font-size:1.2rem}
dl:not(.cards)>div{grid-template-columns:1fr}
th,td{padding:7px 9px}
.gates{font-size:.84rem}
.gates th,.gates td{padding:7px 4px}
.gates th:first-child{padding-left:0}
.gates td:last-child{padding-right:0}
.plot text{font-size:13.5px}
.barred{min-width:0;gap:6px}.barred>span{min-width:3rem}.bar{width:2.6rem}
.many .bar{display:none}.many .barred>span{min-width:0}
}
@media print{
:root{--bg:#fff;--soft:#f5f6f8;--line:#ccc;--text:#000;--mute:#444;--accent:#1f5fd0;--good:#14713a;--goodbg:#fff;--bad:#b3261e;--badbg:#fff;
--c2:#b45309;--c3:#0f766e;--c4:#7c3aed;--heat:31,95,208}
body{font-size:10.5pt}
main,header,footer{max-width:none;padding-left:0;padding-right:0}
.plots{grid-template-columns:1fr 1fr}
nav,details:not([open]){display:none}
.scroll{overflow:visible;background:none}
section,figure,tr,.sample,.verdict{break-inside:avoid}
section.long{break-inside:auto}
h2,h3{break-after:avoid}
.cards div,.texts div,.command{border:1px solid var(--line)}
}
"""
