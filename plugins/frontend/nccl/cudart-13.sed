# From declarations of functions to definitions of their names in CUDA 13's version; see Makefile.inc.
/^(cudaError_t|const char \*|char|void|void \*\*|unsigned) ?\*?\*?((__)?cuda[A-Z][A-Za-z0-9_]*)\(.*/{
    s//\2/
    # what is another function there
    s/^cudaGetDeviceProperties_v2$/"cudaGetDeviceProperties@libcudart.so.13" = cudart_properties_13;/p
    s/^cudaStreamGetCaptureInfo_v3$/"cudaStreamGetCaptureInfo@libcudart.so.13" = cudaStreamGetCaptureInfo_v3;/p
    s/^cudaRuntimeGetVersion$/"cudaRuntimeGetVersion@libcudart.so.13" = cudart_runtime_version_13;/p
    s/^(cudaMemPrefetchAsync|cudaMemAdvise|cudaGraphGetEdges|cudaGraphNodeGetDepend[A-Za-z]*)_v2$/"\1@libcudart.so.13" = \1_v2;/p
    /^(cudaMemPrefetchAsync|cudaMemAdvise|cudaGraphGetEdges|cudaGraphNodeGetDepend[A-Za-z]*)$/d
    /=|_v[23]$/d
    s/.*/"&@libcudart.so.13" = &;/p
}
