#!/usr/bin/env bash
# Plain `spark-submit --master k8s://`, cluster mode: no operator of any kind. Once before: kubectl apply -f rbac.yaml
#
#   API=https://api.example:6443 IMAGE=apache/spark:4.0.1 ./spark-submit.sh [--jar packages|init|image]
#
# Three ways for the jar to reach drivers and executors:
#   packages  from a Maven repository; Spark 4, since 3.5 makes the shuffle manager before it fetches jars
#   init      an init container of the server's image; every line (the default)
#   image     the image forebay-spark as a volume; Kubernetes 1.35
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
way=init
[ "${1:-}" = --jar ] && { way=$2; shift 2; }
case $way in
  packages) jar=(--packages io.forebay:forebay-spark:0.1.0 --conf spark.jars.ivy=/tmp/.ivy2) ;;
  init) template=$here/pod-template-init-container.yaml ;;
  image) template=$here/pod-template-image-volume.yaml ;;
  *) echo "--jar is $way: packages, init or image" >&2; exit 2 ;;
esac
[ "$way" = packages ] || jar=(
  --conf spark.kubernetes.driver.podTemplateFile="$template"
  --conf spark.kubernetes.executor.podTemplateFile="$template"
  --conf spark.driver.extraClassPath=/opt/forebay/forebay-spark.jar
  --conf spark.executor.extraClassPath=/opt/forebay/forebay-spark.jar
)
"${SPARK_HOME:-/opt/spark}"/bin/spark-submit \
  --master "k8s://${API:?the API server, as in kubectl cluster-info}" \
  --deploy-mode cluster \
  --name groupby \
  --class org.apache.spark.examples.GroupByTest \
  --conf spark.kubernetes.namespace="${NAMESPACE:-default}" \
  --conf spark.kubernetes.authenticate.driver.serviceAccountName=spark \
  --conf spark.kubernetes.container.image="${IMAGE:?an image of Spark}" \
  --conf spark.executor.instances=2 \
  --conf spark.executor.cores=4 \
  --conf spark.executor.memory=4g \
  --conf spark.executor.memoryOverhead=2g \
  "${jar[@]}" \
  --conf spark.shuffle.manager=io.forebay.spark.ForebayShuffleManager \
  --conf spark.forebay.servers="dns://${FOREBAY:-forebay}:7400" \
  "$@" \
  local:///opt/spark/examples/jars/spark-examples.jar 100 1000 1000 10
