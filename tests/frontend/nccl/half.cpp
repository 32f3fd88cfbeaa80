/*
 * Arithmetic of cuda_fp16.h and cuda_bf16.h as host programs use it: every result is the exact one, rounded once. Compiled and
 * run by sweep-check.
 */
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef __float128 exact; // holds sums and products of what is chosen here

static int failures;

static void expect(bool good, const char *what)
{
    if (!good && failures++ < 20)
        std::printf("wrong: %s\n", what);
}
#define EXPECT(condition) expect(condition, #condition)

static uint16_t bits_of(__half value)
{
    return __half_as_ushort(value);
}

static uint16_t bits_of(__nv_bfloat16 value)
{
    return __bfloat16_as_ushort(value);
}

template <typename T> static T of_bits(uint16_t bits)
{
    T value;

    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T> static bool is_finite(T value)
{
    return std::isfinite((float)value);
}

static exact distance(exact a, exact b)
{
    return a < b ? b - a : a - b;
}

// None is nearer, and where one is as near, the even one is taken.
template <typename T> static bool is_nearest(T got, exact wanted)
{
    uint16_t bits = bits_of(got);

    if (!is_finite(got))
        return ((float)got > 0) == (wanted > 0); // where it begins is the conversions' affair
    for (int step = -1; step <= 1; step += 2) {
        T other = of_bits<T>((uint16_t)(bits & 0x7fff) + step < 0 ? 0x8001 ^ (bits & 0x8000)
                                                                  : (uint16_t)(bits + step));
        exact mine = distance((float)got, wanted), its = distance((float)other, wanted);

        if (is_finite(other) && (its < mine || (its == mine && bits & 1)))
            return false;
    }
    return true;
}

static uint64_t seed = 1;

static uint32_t random_bits()
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

// Any half; a bfloat16 of no more than 2^31 and no less than 2^-32, so that `exact` is.
template <typename T> static T any();
template <> __half any<__half>()
{
    uint16_t bits = (uint16_t)random_bits();

    return of_bits<__half>((bits & 0x7c00) == 0x7c00 ? bits & 0x83ff : bits);
}
template <> __nv_bfloat16 any<__nv_bfloat16>()
{
    uint32_t exponent = 127 - 32 + random_bits() % 64;

    return of_bits<__nv_bfloat16>((uint16_t)((random_bits() & 0x807f) | exponent << 7));
}

template <typename T> static void arithmetic()
{
    for (int i = 0; i < 200000; i++) {
        T a = any<T>(), b = any<T>(), c = any<T>();
        exact x = (float)a, y = (float)b, z = (float)c;

        EXPECT(is_nearest(__hadd(a, b), x + y));
        EXPECT(is_nearest(__hsub(a, b), x - y));
        EXPECT(is_nearest(__hmul(a, b), x * y));
        EXPECT(is_nearest(__hfma(a, b, c), x * y + z));
        EXPECT(y == 0 || is_nearest(__hdiv(a, b), x / y));
        EXPECT(bits_of(a + b) == bits_of(__hadd(a, b)) && bits_of(a * b) == bits_of(__hmul(a, b)));
        EXPECT(bits_of(a - b) == bits_of(__hsub_rn(a, b)));
        EXPECT((a < b) == (x < y) && (a >= b) == (x >= y) && (a == b) == (x == y) &&
               (a != b) == (x != y));
        EXPECT((float)__hmax(a, b) == (float)(x > y ? x : y) &&
               (float)__hmin(a, b) == (float)(x < y ? x : y));
    }
}

template <typename T> static void specials(T nan, T infinity)
{
    T zero = T(0.0f), minus_zero = -zero, one = T(1.0f), three = T(3.0f);

    EXPECT(!__heq(nan, nan) && !__hne(nan, one) && !__hlt(nan, one) && !__hge(one, nan));
    EXPECT(__hequ(nan, nan) && __hneu(nan, one) && __hltu(nan, one) && __hgeu(one, nan));
    EXPECT(nan != nan && !(nan == nan) && zero == minus_zero);
    EXPECT((float)__hmax(nan, one) == 1 && __hisnan(__hmax_nan(nan, one)));
    EXPECT((float)__hmin(one, nan) == 1 && __hisnan(__hmin_nan(one, nan)));
    EXPECT(bits_of(__hmax(minus_zero, zero)) == 0 && bits_of(__hmin(zero, minus_zero)) == 0x8000);
    EXPECT(__hisnan(__hadd(infinity, -infinity)) && __hisnan(__hfma(infinity, zero, one)));
    EXPECT(__hisinf(__hfma(infinity, one, one)) && __hisinf(one / zero));
    EXPECT((float)__hadd_sat(one, three) == 1 && (float)__hsub_sat(one, three) == 0);
    EXPECT((float)__hmul_sat(nan, one) == 0 && (float)__hfma_sat(one, one, -three) == 0);
    EXPECT((float)__habs(-three) == 3 && bits_of(__hneg(one)) == (bits_of(one) | 0x8000));
    one += three;
    EXPECT((float)one == 4 && (float)(one / T(2.0f)) == 2);
}

int main()
{
    __nv_bfloat16 tiny = of_bits<__nv_bfloat16>(1); // 2^-133
    __half2 pair = __hfma2(__floats2half2_rn(2, 3), __floats2half2_rn(5, 7), __float2half2_rn(1));

    arithmetic<__half>();
    arithmetic<__nv_bfloat16>();
    specials(of_bits<__half>(0x7e00), of_bits<__half>(0x7c00));
    specials(of_bits<__nv_bfloat16>(0x7fc0), of_bits<__nv_bfloat16>(0x7f80));
    // 259 and 261 lie between two of them: what decides is far below what a double has of the sum
    EXPECT((float)__hfma(__nv_bfloat16(7.0f), __nv_bfloat16(37.0f), tiny) == 260);
    EXPECT((float)__hfma(__nv_bfloat16(7.0f), __nv_bfloat16(37.0f), -tiny) == 258);
    EXPECT((float)__hfma(__nv_bfloat16(-7.0f), __nv_bfloat16(37.0f), tiny) == -258);
    EXPECT((float)__hfma(__nv_bfloat16(9.0f), __nv_bfloat16(29.0f), tiny) == 262);
    EXPECT((float)__hfma(__nv_bfloat16(9.0f), __nv_bfloat16(29.0f), -tiny) == 260);
    EXPECT((float)__hfma(__nv_bfloat16(9.0f), __nv_bfloat16(29.0f), __nv_bfloat16(0.0f)) == 260);
    EXPECT(__low2float(pair) == 11 && __high2float(pair) == 22);
    EXPECT((float)__low2half(__hmax2(pair, __half2half2(__half(20.0f)))) == 20);
    std::printf("%d wrong\n", failures);
    return failures != 0;
}
