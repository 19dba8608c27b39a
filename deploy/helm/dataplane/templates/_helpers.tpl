{{/* Of our own, and not flannel's: no object, pod or release of flannel's is ours by name, label or selector
(docs/decisions/0028). A DaemonSet's selector cannot be changed. */}}
{{- define "dataplane.selector" -}}
app.kubernetes.io/name: flannel-dataplane
{{- end }}

{{- define "dataplane.labels" -}}
{{ include "dataplane.selector" . }}
app.kubernetes.io/component: node
{{- end }}

{{/* Does a TUN carry the packets, or may it? */}}
{{- define "dataplane.tun" -}}
{{- if or (eq .Values.flannel.backend "udp") (and (eq .Values.flannel.backend "vxlan") (ne .Values.flannel.datapath "kernel")) -}}
true
{{- end -}}
{{- end }}

{{/* net-conf.json. What a backend has no use for is refused: flannel's chart drops it without a word. */}}
{{- define "dataplane.netConf" -}}
{{- $flannel := .Values.flannel -}}
{{- $backend := dict "Type" $flannel.backend -}}
{{- range $value, $name := dict "mtu" "MTU" "vni" "VNI" "directRouting" "DirectRouting" "GBP" "GBP" -}}
{{- $given := index $flannel $value -}}
{{- if not (kindIs "invalid" $given) -}}
{{- if ne $flannel.backend "vxlan" -}}
{{- fail (printf "flannel.%s has a meaning with flannel.backend vxlan only, and the backend is %s" $value $flannel.backend) -}}
{{- end -}}
{{- $_ := set $backend $name (ternary $given (int64 $given) (kindIs "bool" $given)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.podCidrv6 (gt (int64 (default 0 $flannel.vni)) 9999) -}}
{{- fail (printf "flannel.vni is %d: Linux allows a device name flannel-v6.<VNI> up to 9999" (int64 $flannel.vni)) -}}
{{- end -}}
{{- if and (eq $flannel.backend "udp") (eq $flannel.datapath "kernel") -}}
{{- fail "flannel.datapath is kernel: the kernel has no udp backend; allowed with it: auto, userspace" -}}
{{- end -}}
{{- if and $flannel.GBP (ne $flannel.datapath "kernel") -}}
{{- fail (printf "flannel.GBP needs flannel.datapath kernel, and the datapath is %s" $flannel.datapath) -}}
{{- end -}}
{{- if $flannel.backendPort -}}
{{- if eq $flannel.backend "host-gw" -}}
{{- fail "flannel.backendPort has a meaning with flannel.backend vxlan and udp only, and the backend is host-gw" -}}
{{- end -}}
{{- $_ := set $backend "Port" (int64 $flannel.backendPort) -}}
{{- end -}}
{{- $conf := dict "EnableNFTables" $flannel.enableNFTables "Backend" $backend -}}
{{- if .Values.podCidr -}}
{{- $_ := set $conf "Network" .Values.podCidr -}}
{{- else -}}
{{- $_ := set $conf "EnableIPv4" false -}}
{{- end -}}
{{- if .Values.podCidrv6 -}}
{{- $_ := set $conf "EnableIPv6" true -}}
{{- $_ := set $conf "IPv6Network" .Values.podCidrv6 -}}
{{- end -}}
{{- mustToPrettyJson $conf -}}
{{- end }}
