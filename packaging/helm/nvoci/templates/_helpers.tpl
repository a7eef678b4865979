{{- define "nvoci.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nvoci.selector" -}}
app.kubernetes.io/name: nvoci
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nvoci.labels" -}}
{{ include "nvoci.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Labels of NVIDIA devices: NFD with the vendor's settings, NFD's own settings (class and vendor),
     Tegra's processor, and the one that an administrator or the vendor's operator sets. */}}
{{- define "nvoci.nfd" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      {{- range list "feature.node.kubernetes.io/pci-10de.present" "feature.node.kubernetes.io/pci-0300_10de.present" "feature.node.kubernetes.io/pci-0302_10de.present" "nvidia.com/gpu.present" }}
      - matchExpressions:
          - {key: {{ . }}, operator: In, values: ["true"]}
      {{- end }}
      - matchExpressions:
          - {key: feature.node.kubernetes.io/cpu-model.vendor_id, operator: In, values: [NVIDIA]}
{{- end -}}
