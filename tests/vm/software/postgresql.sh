# A database on a volume, written with fsync; a server that is killed loses nothing that was committed.
cd /data
chown postgres .
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
as_postgres() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
start() { as_postgres pg_ctl -D /data/pg -l /data/log -w -t 100 -o "-c fsync=on -c listen_addresses= -k /data" start >/dev/null; }
sql() { as_postgres psql -h /data -At postgres -c "$1"; }

as_postgres initdb -D /data/pg >/dev/null
start
[ "$(sql 'show fsync')" = on ]
as_postgres pgbench -h /data -i -s 1 -q postgres 2>/dev/null
as_postgres pgbench -h /data -c 4 -j 2 -t 25 postgres 2>&1 | grep '^number of transactions actually processed: 100/100'
as_postgres pg_ctl -D /data/pg -m immediate stop >/dev/null
start
[ "$(sql 'select count(*) from pgbench_history')" = 100 ]
[ "$(sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)')" = t ]
[ "$(sql 'select count(*) from pgbench_accounts')" = 100000 ]
as_postgres pg_ctl -D /data/pg -m fast stop >/dev/null
echo whole
