#!/bin/sh
# Lists the files of project/ for kustomize, which takes no patterns: run it after a file came or went.
# A ConfigMap holds 1 MiB and no folders; `items` in volume.yaml says which file goes where.
set -eu
cd "$(dirname "$0")"
if [ ! -d project/ddl ] || [ ! -d project/transforms ]; then
  echo "no project/ddl and project/transforms here; make them: lotus-lake init $(pwd)/project" >&2
  exit 1
fi
files=$(cd project && find ddl transforms -name '*.sql' | LC_ALL=C sort)

{
  cat <<'END'
# Written by list.sh. Your own ddl/ and transforms/, mounted for the service; a change of a file restarts the pods.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
configMapGenerator:
  - name: lotus-lake-project
    namespace: lotus-lake # that of the overlays, else the Deployment does not find it
    files:
END
  for file in $files; do
    echo "      - $(echo "$file" | tr / .)=project/$file"
  done
  cat <<'END'
patches:
  - path: volume.yaml
END
} >kustomization.yaml

{
  cat <<'END'
# Written by list.sh.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: lotus-lake
spec:
  template:
    spec:
      containers:
        - name: lotus-lake
          env:
            - name: LOTUS_PROJECT_DIR
              value: /etc/lotus-lake/project
          volumeMounts:
            - name: project
              mountPath: /etc/lotus-lake/project
              readOnly: true
      volumes:
        - name: project
          configMap:
            name: lotus-lake-project
            items:
END
  for file in $files; do
    echo "              - key: $(echo "$file" | tr / .)"
    echo "                path: $file"
  done
} >volume.yaml
