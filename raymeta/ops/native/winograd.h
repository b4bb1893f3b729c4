// Winograd's F(M x M, 3x3) in one direction: M results of a row of M + 2 inputs and 3 weights are products at M + 2
// points. Every transform is linear in a row; done to the columns and then to the rows it is that of a tile.
//
// `cotangents` is the transpose of `results`, `gradients` of `inputs`, `weight_gradients` of `weights`.
// Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (CVPR 2016).
#pragma once
#include "lanes.h"

namespace raymeta {

template <class T, int M> struct Winograd;
// At 0, 1, -1 and infinity
template <class T> struct Winograd<T, 2> {
    static constexpr T HALF = 0.5;
    static void inputs(const V<T> (&d)[4], V<T> (&e)[4]) {
        e[0] = d[0] - d[2], e[1] = d[1] + d[2], e[2] = d[2] - d[1], e[3] = d[1] - d[3];
    }
    static void gradients(const V<T> (&e)[4], V<T> (&d)[4]) {
        d[0] = e[0], d[1] = e[1] - e[2] + e[3], d[2] = e[1] + e[2] - e[0], d[3] = -e[3];
    }
    static void results(const V<T> (&m)[4], V<T> (&y)[2]) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
    static void cotangents(const V<T> (&y)[2], V<T> (&m)[4]) {
        m[0] = y[0], m[1] = y[0] + y[1], m[2] = y[0] - y[1], m[3] = -y[1];
    }
    static void weights(const V<T> (&w)[3], V<T> (&u)[4]) {
        V<T> sides = HALF * (w[0] + w[2]), centre = HALF * w[1];
        u[0] = w[0], u[1] = sides + centre, u[2] = sides - centre, u[3] = w[2];
    }
    static void weight_gradients(const V<T> (&u)[4], V<T> (&w)[3]) {
        V<T> sum = HALF * (u[1] + u[2]);
        w[0] = u[0] + sum, w[1] = HALF * (u[1] - u[2]), w[2] = sum + u[3];
    }
};

// At 0, P, -P, Q, -Q and infinity. With 5/8 and 3/2 a result's error is less than half of that with 1 and 2.
template <class T> struct Winograd<T, 4> {
    static constexpr T P = 0.625, Q = 1.5, PP = P * P, QQ = Q * Q, BOTH = PP * QQ, SUM = PP + QQ;
    static constexpr T AT_0 = 1 / BOTH, AT_P = 1 / (2 * PP * (PP - QQ)), AT_Q = 1 / (2 * QQ * (QQ - PP));
    static void inputs(const V<T> (&d)[6], V<T> (&e)[6]) {
        V<T> even = d[4] - QQ * d[2], odd = P * (d[3] - QQ * d[1]);
        e[0] = BOTH * d[0] - SUM * d[2] + d[4], e[1] = even + odd, e[2] = even - odd;
        even = d[4] - PP * d[2], odd = Q * (d[3] - PP * d[1]);
        e[3] = even + odd, e[4] = even - odd, e[5] = BOTH * d[1] - SUM * d[3] + d[5];
    }
    static void gradients(const V<T> (&e)[6], V<T> (&d)[6]) {
        V<T> even_p = e[1] + e[2], odd_p = P * (e[1] - e[2]), even_q = e[3] + e[4], odd_q = Q * (e[3] - e[4]);
        d[0] = BOTH * e[0], d[1] = BOTH * e[5] - QQ * odd_p - PP * odd_q;
        d[2] = -SUM * e[0] - QQ * even_p - PP * even_q, d[3] = odd_p + odd_q - SUM * e[5];
        d[4] = e[0] + even_p + even_q, d[5] = e[5];
    }
    static void results(const V<T> (&m)[6], V<T> (&y)[4]) {
        V<T> even_p = m[1] + m[2], odd_p = P * (m[1] - m[2]), even_q = m[3] + m[4], odd_q = Q * (m[3] - m[4]);
        y[0] = m[0] + even_p + even_q, y[1] = odd_p + odd_q;
        y[2] = PP * even_p + QQ * even_q, y[3] = PP * odd_p + QQ * odd_q + m[5];
    }
    static void cotangents(const V<T> (&y)[4], V<T> (&m)[6]) {
        V<T> even = y[0] + PP * y[2], odd = P * (y[1] + PP * y[3]);
        m[0] = y[0], m[1] = even + odd, m[2] = even - odd;
        even = y[0] + QQ * y[2], odd = Q * (y[1] + QQ * y[3]);
        m[3] = even + odd, m[4] = even - odd, m[5] = y[3];
    }
    static void weights(const V<T> (&w)[3], V<T> (&u)[6]) {
        V<T> even = AT_P * (w[0] + PP * w[2]), odd = AT_P * P * w[1];
        u[0] = AT_0 * w[0], u[1] = even + odd, u[2] = even - odd;
        even = AT_Q * (w[0] + QQ * w[2]), odd = AT_Q * Q * w[1];
        u[3] = even + odd, u[4] = even - odd, u[5] = w[2];
    }
    static void weight_gradients(const V<T> (&u)[6], V<T> (&w)[3]) {
        V<T> even_p = AT_P * (u[1] + u[2]), odd_p = AT_P * P * (u[1] - u[2]);
        V<T> even_q = AT_Q * (u[3] + u[4]), odd_q = AT_Q * Q * (u[3] - u[4]);
        w[0] = AT_0 * u[0] + even_p + even_q, w[1] = odd_p + odd_q, w[2] = PP * even_p + QQ * even_q + u[5];
    }
};

template <class T, int FROM, int TO> using Transform = void (*)(const V<T> (&)[FROM], V<T> (&)[TO]);

// A transform of what `load(i, j)` gives, on columns and then on rows, to `store(i, j, value)`
template <class T, int FROM, int TO, Transform<T, FROM, TO> TRANSFORM, class Load, class Store>
inline __attribute__((always_inline)) void both_ways(Load load, Store store) {
    V<T> half[TO][FROM];
#pragma GCC unroll 6
    for (int j = 0; j < FROM; j++) {
        V<T> column[FROM], found[TO];
        for (int i = 0; i < FROM; i++) column[i] = load(i, j);
        TRANSFORM(column, found);
        for (int i = 0; i < TO; i++) half[i][j] = found[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < TO; i++) {
        V<T> found[TO];
        TRANSFORM(half[i], found);
        for (int j = 0; j < TO; j++) store(i, j, found[j]);
    }
}

}  // namespace raymeta
