/* CUDA's vector types, and make_...: what host programs lay out for devices. Layouts and alignments are CUDA's. */
#ifndef VECTOR_TYPES_H
#define VECTOR_TYPES_H

#if defined(__cplusplus) && __cplusplus >= 201103L
#define CUDART_CONSTEXPR constexpr
#else
#define CUDART_CONSTEXPR
#endif

/* type, its name in vectors, bytes to which vectors of 2 and of 4 are aligned */
#define CUDART_VECTOR_MAP(X) \
    X(signed char, char, 2, 4) \
    X(unsigned char, uchar, 2, 4) \
    X(short, short, 4, 8) \
    X(unsigned short, ushort, 4, 8) \
    X(int, int, 8, 16) \
    X(unsigned, uint, 8, 16) \
    X(long, long, 16, 16) \
    X(unsigned long, ulong, 16, 16) \
    X(long long, longlong, 16, 16) \
    X(unsigned long long, ulonglong, 16, 16) \
    X(float, float, 8, 16) \
    X(double, double, 16, 16)

#define X(type, name, align2, align4) \
    typedef struct name##1 \
    { \
        type x; \
    } \
    name##1; \
    typedef struct __attribute__((aligned(align2))) name##2 \
    { \
        type x, y; \
    } \
    name##2; \
    typedef struct name##3 \
    { \
        type x, y, z; \
    } \
    name##3; \
    typedef struct __attribute__((aligned(align4))) name##4 \
    { \
        type x, y, z, w; \
    } \
    name##4; \
    static inline name##1 make_##name##1(type x) \
    { \
        name##1 v = {x}; \
        return v; \
    } \
    static inline name##2 make_##name##2(type x, type y) \
    { \
        name##2 v = {x, y}; \
        return v; \
    } \
    static inline name##3 make_##name##3(type x, type y, type z) \
    { \
        name##3 v = {x, y, z}; \
        return v; \
    } \
    static inline name##4 make_##name##4(type x, type y, type z, type w) \
    { \
        name##4 v = {x, y, z, w}; \
        return v; \
    }
CUDART_VECTOR_MAP(X)
#undef X

typedef struct dim3 {
    unsigned x, y, z;
#if defined(__cplusplus)
    CUDART_CONSTEXPR dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
    CUDART_CONSTEXPR dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    operator uint3() const
    {
        return make_uint3(x, y, z);
    }
#endif
} dim3;

#endif
