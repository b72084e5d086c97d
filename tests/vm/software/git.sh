# Twenty thousand files out of a bare repository on the volume; another branch, and back; a commit, pushed.
cd /data
git config --global user.name somebody
git config --global user.email somebody@example.org
git config --global --add safe.directory '*'
git clone -q --no-local repository work
cd work
[ "$(find . -name 'f*' -type f -not -path './.git/*' | wc -l)" = 20000 ]
[ -z "$(git status --porcelain)" ]
git checkout -q other
[ "$(cat d7/f7)" = "other 7 7" ]
[ "$(git diff --name-only HEAD main | wc -l)" = 100 ]
git checkout -q main
[ "$(cat d7/f7)" = "7 7" ]
echo changed >d0/f0
git rm -q d1/f1
[ "$(git status --porcelain)" = $' M d0/f0\nD  d1/f1' ]
git commit -q -a -m changed
git push -q origin main
[ "$(git -C ../repository rev-parse main)" = "$(git rev-parse HEAD)" ]
git fsck --connectivity-only
echo whole
