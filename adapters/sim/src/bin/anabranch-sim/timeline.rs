//! A page that shows a run: nodes as lanes, frames as lines between them, faults as marks, virtual time to the
//! right. One file, nothing fetched.

use anabranch_sim::{Failure, Kind, RunReport, TraceEvent};

use crate::json;

/// Events drawn at most: the last ones, which lead to the failure.
const MOST_EVENTS: usize = 60_000;

const HEAD: &str = r#"<!doctype html><html lang="en"><meta charset="utf-8"><title>anabranch-sim</title><style>
body{font:14px system-ui,sans-serif;margin:0;color:#222;background:#fff}
header{padding:8px 12px;border-bottom:1px solid #ccc}
#bad{color:#b00020;font-weight:600}
canvas{display:block;width:100%;cursor:grab}
#tip{position:fixed;right:8px;bottom:8px;max-width:60ch;background:#fffd;border:1px solid #ccc;padding:6px 8px;white-space:pre-wrap}
label{margin-right:1em}
</style><header><b id="title"></b> <span id="bad"></span><div>
<label><input type="checkbox" id="frames" checked> frames</label>
<label><input type="checkbox" id="disk" checked> disk</label>
<label><input type="checkbox" id="work" checked> workload</label>
wheel: zoom; drag: move; pointer: details</div></header><canvas id="c"></canvas><div id="tip"></div><script>
"#;

const SCRIPT: &str = r#"
const c=document.getElementById('c'),x=c.getContext('2d'),tip=document.getElementById('tip');
document.getElementById('title').textContent='seed '+D.seed+', '+D.total+' events, '+(D.end).toFixed(3)+' s';
document.getElementById('bad').textContent=D.failure||'';
const on=id=>document.getElementById(id).checked,E=D.events,N=D.nodes.length;
let from=E.length?E[0][0]:0,to=D.end||1,lane=()=>Math.max(24,(c.height-40)/(N+1));
const X=t=>120+(t-from)/(to-from)*(c.width-140),Y=n=>30+lane()*(n+1);
const colour={Boot:'#2e7d32',BootFailed:'#b00020',Crash:'#b00020',Up:'#00897b',Down:'#ef6c00',Frame:'#9e9e9e',Writable:'#6d4c41',Timer:'#e0e0e0',Written:'#5c6bc0',Synced:'#283593',Fault:'#ad1457',Work:'#1565c0',Note:'#b00020',Sent:'#cfd8dc'};
let near=null;
function show(k){return !((k==='Frame'||k==='Sent')&&!on('frames')||(k==='Written'||k==='Synced')&&!on('disk')||k==='Work'&&!on('work')||k==='Timer')}
function draw(){c.width=innerWidth;c.height=Math.max(260,innerHeight-c.offsetTop);x.clearRect(0,0,c.width,c.height);x.font='12px system-ui';
x.fillStyle='#222';for(let n=-1;n<N;n++){x.fillText(n<0?'world':D.nodes[n],8,Y(n)+4);x.strokeStyle='#ddd';x.beginPath();x.moveTo(120,Y(n));x.lineTo(c.width-20,Y(n));x.stroke()}
const step=Math.pow(10,Math.floor(Math.log10((to-from)/5)));x.fillStyle='#888';for(let t=Math.ceil(from/step)*step;t<to;t+=step)x.fillText(t.toFixed(Math.max(0,-Math.log10(step)+.5|0))+' s',X(t),14);
for(const e of E){const[t,n,k,o]=e;if(t<from||t>to||!show(k))continue;x.fillStyle=x.strokeStyle=colour[k]||'#000';
if(k==='Frame'&&o!==null){x.globalAlpha=.5;x.beginPath();x.moveTo(X(t)-6,Y(o));x.lineTo(X(t),Y(n));x.stroke();x.globalAlpha=1}
else if(k==='Crash'||k==='Fault'||k==='Note'){x.globalAlpha=.25;x.fillRect(X(t),20,1,c.height);x.globalAlpha=1;x.fillRect(X(t)-3,Y(n===null?-1:n)-6,6,12)}
else x.fillRect(X(t)-1.5,Y(n===null?-1:n)-4,3,8)}
if(near){x.strokeStyle='#000';x.beginPath();x.arc(X(near[0]),Y(near[1]===null?-1:near[1]),8,0,7);x.stroke()}}
c.onwheel=e=>{e.preventDefault();const m=from+(e.offsetX-120)/(c.width-140)*(to-from),f=e.deltaY>0?1.25:.8;from=m-(m-from)*f;to=m+(to-m)*f;draw()};
let grip=null;c.onmousedown=e=>grip=[e.offsetX,from,to];onmouseup=()=>grip=null;
c.onmousemove=e=>{if(grip){const d=(e.offsetX-grip[0])/(c.width-140)*(grip[2]-grip[1]);from=grip[1]-d;to=grip[2]-d;return draw()}
let best=15;near=null;for(const v of E){if(v[0]<from||v[0]>to||!show(v[2]))continue;const d=Math.hypot(X(v[0])-e.offsetX,Y(v[1]===null?-1:v[1])-e.offsetY);if(d<best){best=d;near=v}}
tip.textContent=near?near[0].toFixed(6)+' s  '+(near[1]===null?'world':D.nodes[near[1]])+'  '+near[2]+(near[3]===null?'':' from '+D.nodes[near[3]])+(near[4]?' '+near[4]+' bytes':'')+'\n'+near[5]:'';draw()};
onresize=draw;for(const i of document.querySelectorAll('input'))i.onchange=draw;draw();
</script></html>
"#;

/// The page.
pub(crate) fn page(seed: u64, report: &RunReport, failure: Option<&Failure>) -> String {
    let wanted = |event: &&TraceEvent| !matches!(event.kind, Kind::Timer | Kind::Sent);
    let events: Vec<&TraceEvent> = report.trace.iter().filter(wanted).collect();
    let shown = &events[events.len().saturating_sub(MOST_EVENTS)..];
    let node = |node: Option<usize>| node.map_or("null".to_owned(), |node| node.to_string());
    let rows: Vec<String> = shown
        .iter()
        .map(|event| {
            format!(
                "[{:.6},{},\"{:?}\",{},{},{}]",
                event.at as f64 / 1e9,
                node(event.node),
                event.kind,
                node(event.other),
                event.len,
                json::text(&event.text)
            )
        })
        .collect();
    let names: Vec<String> = report.nodes.iter().map(|name| json::text(name)).collect();
    let data = json::object([
        ("seed", seed.to_string()),
        ("total", report.events.to_string()),
        ("end", json::number(report.virtual_nanos as f64 / 1e9)),
        ("failure", failure.map_or("null".to_owned(), |failure| json::text(&failure.to_string()))),
        ("nodes", format!("[{}]", names.join(","))),
        ("events", format!("[{}]", rows.join(",\n"))),
    ]);
    format!("{HEAD}const D={data};{SCRIPT}")
}
