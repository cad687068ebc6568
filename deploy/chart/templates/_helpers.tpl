{{/* The name that all objects of the release share. Those of Services begin with it, for which there are narrower rules. */}}
{{- define "hoop-operator.fullname" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- $name = $name | trunc 53 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name of the release, %s: Services are named after it, so it has to begin with a letter, and to have lower-case letters, digits and '-' only: choose another one, or set fullnameOverride" .Release.Name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The name of what the release has in the cluster: releases of one name in several namespaces have one each. */}}
{{- define "hoop-operator.clusterName" -}}
{{ .Release.Namespace }}:{{ include "hoop-operator.fullname" . }}
{{- end -}}

{{/* What tells the Pods of this release from all others; a Deployment's selector never changes. */}}
{{- define "hoop-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The Pods of the HTTP API are none of the operator's: its selectors must not take them. */}}
{{- define "hoop-operator.apiSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-api
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hoop-operator.labels" -}}
{{- include "hoop-operator.labelsWith" (dict "context" .) -}}
{{- end -}}

{{- define "hoop-operator.apiLabels" -}}
{{- include "hoop-operator.labelsWith" (dict "context" . "selector" "hoop-operator.apiSelectorLabels") -}}
{{- end -}}

{{/*
The labels of an object. `labels` are its own, from the value named `value`: those of the chart count before these, and these
before the common ones. `selector` is the template of those that tell its Pods from all others, if not the operator's.
*/}}
{{- define "hoop-operator.labelsWith" -}}
{{- $chart := include (.selector | default "hoop-operator.selectorLabels") .context | fromYaml -}}
{{- $given := dict "commonLabels" .context.Values.commonLabels -}}
{{- with .value -}}{{- $_ := set $given . $.labels -}}{{- end -}}
{{- range $value, $labels := $given -}}
{{- range $key := keys $chart -}}
{{- if hasKey $labels $key -}}
{{- fail (printf "%s: %s tells the Pods of this release from all others and is the chart's own: choose another key" $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .context -}}
{{- $_ := set $chart "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $chart "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $chart "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- end -}}
{{- toYaml (merge dict $chart (.labels | default dict) .context.Values.commonLabels) -}}
{{- end -}}

{{/* The annotations of an object, with their key; nothing where there are none. */}}
{{- define "hoop-operator.annotations" -}}
{{- with merge dict (.own | default dict) .context.Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "hoop-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "hoop-operator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.name: name the account that exists already, or set serviceAccount.create to true" -}}
{{- end -}}
{{- end -}}

{{- define "hoop-operator.image" -}}
{{- with .Values.image -}}
{{- .repository -}}
{{- if or .tag (not .digest) -}}:{{- .tag | default $.Chart.AppVersion -}}{{- end -}}
{{- if .digest -}}@{{- .digest -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The namespace that the HTTP API serves: the operator has to answer there. */}}
{{- define "hoop-operator.apiNamespace" -}}
{{- $namespace := .Values.api.namespace | default .Release.Namespace -}}
{{- with .Values.watchNamespaces -}}
{{- if not (has $namespace .) -}}
{{- fail (printf "api.namespace: the HTTP API would serve %s%s, which is none of watchNamespaces (%s), and nobody would carry out its plans: name one of these, or add it there" $namespace (empty $.Values.api.namespace | ternary ", the release's own since api.namespace is empty" "") (join ", " .)) -}}
{{- end -}}
{{- end -}}
{{- $namespace -}}
{{- end -}}

{{/* The Lease by which one of several processes leads: each agent id has one. */}}
{{- define "hoop-operator.leaseName" -}}
hoop-operator{{ with .Values.agentId }}-{{ lower . }}{{ end }}
{{- end -}}

{{/* Objects of the Prometheus operator: whether to render one of `renderMode`. */}}
{{- define "hoop-operator.hasMonitoring" -}}
{{- $has := .context.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
{{- if eq .renderMode "failIfMissing" -}}
{{- if not $has -}}
{{- fail (printf "%s.renderMode is failIfMissing, and the cluster does not serve monitoring.coreos.com/v1: install the Prometheus operator, or set %s.enabled to false" .value .value) -}}
{{- end -}}
true
{{- else if or $has (eq .renderMode "alwaysRender") -}}
true
{{- end -}}
{{- end -}}
